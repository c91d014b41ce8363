"""How hard small models find a subject, by the words it is recognised by.

Written by hand from general knowledge, not learned: priors about whole subjects travel to questions nobody trained on,
weights learned for single words do not. English alone; other languages have no prior.
"""

from __future__ import annotations

SUBJECTS: tuple[tuple[float, str], ...] = (
    (  # abstract algebra, analysis, topology
        1.4,
        """
        abelian subgroup subgroups isomorphic isomorphism homomorphism homomorphisms cyclic ring rings ideal ideals
        polynomial polynomials automorphism coset cosets permutation permutations commutative kernel galois
        bijection injective surjective subset subsets topology topological eigenvalue eigenvalues eigenvector
        eigenvectors matrix matrices vector vectors determinant invertible orthogonal manifold theorem lemma
        converge converges convergent countable modulo mod divisible congruent factorial quotient proof prove
        """,
    ),
    (  # calculus, algebra, geometry
        1.2,
        """
        derivative derivatives integral integrals integrate differentiable differential asymptote tangent sin cos
        tan log ln parabola ellipse hyperbola slope intercept equation equations quadratic cubic sqrt radius circle
        circumference triangle triangles rectangle polygon perimeter sphere cylinder cone angle angles degrees
        perpendicular parallel coordinates vertices hypotenuse inscribed arithmetic geometric digits integer
        integers fraction decimal remainder simplify frac
        """,
    ),
    (  # probability and statistics
        0.9,
        """
        probability probabilities randomly dice die coin coins variance poisson binomial combinations deck marbles
        replacement outcomes regression correlation residual residuals estimator estimators ols coefficient
        coefficients autocorrelation heteroscedasticity stationary multicollinearity hypothesis significance
        confidence median
        """,
    ),
    (  # logic
        1.1,
        """
        premise premises conclusion proposition propositions predicate syllogism tautology tautologies contradiction
        valuation counterexample antecedent consequent iff symbolization logically clue clues puzzle knights knaves
        liar
        """,
    ),
    (  # physics and engineering
        0.8,
        """
        velocity acceleration momentum kinetic joules joule newton newtons friction gravitational electron electrons
        photon photons wavelength magnetic voltage resistance resistor ohm ohms capacitor inductor circuit circuits
        coil volts volt watt watts ampere amperes torque angular oscillation pendulum lens refraction diffraction
        entropy adiabatic isothermal kelvin hz relativity orbital projectile piston turbine viscosity laminar
        reynolds nozzle enthalpy btu psi transistor amplifier bandwidth transformer winding armature
        """,
    ),
    (  # chemistry
        0.7,
        """
        molecule molecules molecular mole moles molar molarity ion ions acid acids ph pka buffer titration oxidation
        equilibrium reactant reactants catalyst gibbs covalent ionic orbitals electronegativity isotope isomer
        isomers nmr spectrum epr hyperfine alkene benzene aqueous precipitate solubility sodium chloride hydroxide
        sulfate ammonia
        """,
    ),
    (  # computing
        0.5,
        """
        algorithm algorithms complexity turing automaton automata recursion array arrays pointer cache byte bytes
        binary hexadecimal boolean compiler register registers pipeline thread threads deadlock scheduling packet
        protocol classifier gradient overfitting hash heap queue encryption overflow iteration
        """,
    ),
    (  # law applied to cases
        1.0,
        """
        plaintiff defendant defendants tort negligence liable jury hearsay admissible testimony witness prosecution
        prosecutor convicted felony burglary robbery larceny murder manslaughter homicide arrested warrant landlord
        tenant lease deed conveyed grantor grantee mortgage easement heirs devise offeror offeree breach statute
        ordinance sued lawsuit probate injunction
        """,
    ),
    (  # accounting and finance
        0.7,
        """
        depreciation amortization ledger inventory fifo lifo audit auditor auditors taxable deduction deductible
        equity dividend dividends compounded annually discounted npv irr yield maturity markup payroll bonds invoice
        """,
    ),
    (  # medicine, anatomy, infection
        0.2,
        """
        patient symptoms diagnosis serum urine hypertension artery nerve nerves muscle muscles anterior posterior
        lateral cranial spinal foramen virus viral vaccine antibody pathogen hiv
        """,
    ),
    (  # morals and religion
        -0.1,
        """
        moral morally virtue utilitarian utilitarianism kant aristotle plato philosopher karma sacred qur'an
        buddhist torah
        """,
    ),
    (  # nature and what is on everyone's lips
        -0.2,
        """
        gene genes dna protein species evolution photosynthesis diet vitamin film movie song album actor band team
        """,
    ),
    (  # society and history
        -0.5,
        """
        psychologist freud piaget anxiety personality sociologist norms inequality marketing brand consumers
        advertising manager employees leadership president congress senate elections voters treaty republic colonial
        empire century revolution
        """,
    ),
    (  # chat
        -0.6,
        """
        recipe email poem blog essay advice tips rewrite hello hi thanks
        """,
    ),
)

PRIOR: dict[str, float] = {word: prior for prior, words in SUBJECTS for word in words.split()}
